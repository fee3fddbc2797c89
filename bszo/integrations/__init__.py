"""Integrations with other libraries, imported one by one: none is needed by the rest of bszo.

`accelerate` needs none of its own. Its `prepare` may take the model and the data, but not the
optimizer: `AcceleratedOptimizer.step` drops the loss that `step(closure)` returns, and skips the
steps of micro-batches inside `accumulate()`, whose losses a closure has to average itself:

    model, loader = accelerator.prepare(model, loader)
    optimizer = bszo.BSZO(model.parameters(), lr=1e-6, module=model)
    loss = optimizer.step(lambda: sum(model(**batch).loss for batch in batches) / len(batches))
"""
