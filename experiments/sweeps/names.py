"""How the papers write what the configuration files call otherwise; METHODS are this paper's."""

METHODS = {
    "mezo": "MeZO",
    "mezo-adam": "MeZO-Adam",
    "hizoo": "HiZOO",
    "lozo": "LOZO",
    "bszo": "BSZO",
    "bszo-b": "BSZO-B",
}
EVERY_METHOD = {
    **METHODS,
    "adamw": "AdamW",
    "agzo": "AGZO",
    "bszo-each": "BSZO, own directions",
    "conmezo": "ConMeZO",
    "es": "ES",
    "forward-grad": "Forward-Grad",
    "fzoo": "FZOO",
    "loren": "LOREN",
    "mezo-each": "MeZO, own directions",
    "sgd": "SGD",
    "subzero": "SubZero",
    "subzero-plus": "SubZero+",
    "zo-ldsd": "ZO-LDSD",
    "zo-muon": "ZO-Muon",
}
MODELS = {
    "roberta-large": "RoBERTa-large",
    "opt-1.3b": "OPT-1.3B",
    "mistral-7b": "Mistral-7B",
    "opt-13b": "OPT-13B",
}
TASKS = {
    "sst2": "SST-2",
    "rte": "RTE",
    "cb": "CB",
    "wic": "WIC",
    "trec": "TREC",
    "copa": "COPA",
    "wsc": "WSC",
    "boolq": "BoolQ",
}


def shown(names: dict[str, str], choice: str) -> str:
    """The paper's name, or the choice's own where the paper has none."""
    return names.get(choice, choice)
