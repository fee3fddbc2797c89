"""Fine-tune a local causal model with BSZO on the "text" of a local JSONL: python trainer.py MODEL
ROWS.jsonl OUT"""

import sys
from functools import partial

from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    TrainingArguments,
)

from bszo import BSZO
from bszo.integrations.transformers import ZerothOrderTrainer

if len(sys.argv) != 4:
    sys.exit(__doc__)
folder, rows, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
if tokenizer.pad_token is None:  # GPT-2 and Llama 3 have none, and batches are padded
    tokenizer.pad_token = tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder)
args = TrainingArguments(
    out,
    max_steps=30,
    learning_rate=1e-3,  # suits tiny-opt; bszo.find_lr recommends one for a model
    lr_scheduler_type="linear",
    logging_steps=10,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    report_to="none",
)
texts = load_dataset("json", data_files=rows, split="train").select_columns("text")
tokens = texts.map(
    lambda row: tokenizer(row["text"], truncation=True, max_length=128), remove_columns="text"
)
collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
method = partial(BSZO, k=2, m=3, eps=1e-3, prior_var=100.0, noise_var=1.0)
trainer = ZerothOrderTrainer(
    model, args, collator, tokens, method=method, processing_class=tokenizer
)
trainer.train()
trainer.save_model()
