"""Preferences with TRL on the "prompt", "chosen" and "rejected" of a local JSONL: python trl_dpo.py
MODEL ROWS.jsonl OUT"""

import sys
from functools import partial

from datasets import load_dataset
from trl import DPOConfig

from bszo import BSZO
from bszo.integrations.trl import ZerothOrderDPOTrainer

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, rows, out = sys.argv[1:]
pairs = load_dataset("json", data_files=rows, split="train")
trainer = ZerothOrderDPOTrainer(
    model,
    args=DPOConfig(
        out,
        max_steps=30,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        precompute_ref_log_probs=True,  # once, and not at every point of every step
        logging_steps=10,
        report_to="none",
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
    ),
    method=partial(BSZO, k=2, m=3, eps=1e-3, prior_var=100.0, noise_var=1.0),
    train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
)
trainer.train()
trainer.save_model()
