"""Fine-tune with TRL on the "text" of a local JSONL: python trl_sft.py MODEL ROWS.jsonl OUT"""

import sys
from functools import partial

from datasets import load_dataset
from trl import SFTConfig

from bszo import BSZO
from bszo.integrations.trl import ZerothOrderSFTTrainer

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, rows, out = sys.argv[1:]
trainer = ZerothOrderSFTTrainer(
    model,
    SFTConfig(
        out,
        max_steps=30,
        learning_rate=1e-3,
        per_device_train_batch_size=8,
        max_length=128,
        logging_steps=10,
        report_to="none",
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
    ),
    method=partial(BSZO, k=2, m=3, eps=1e-3, prior_var=100.0, noise_var=1.0),
    train_dataset=load_dataset("json", data_files=rows, split="train").select_columns("text"),
)
trainer.train()
trainer.save_model()
