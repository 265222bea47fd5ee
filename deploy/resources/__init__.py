"""One module per resource.

What it is to be (`wanted`), what the cloud says it is (`found`), both as one type, and the gcloud lines between.

A setting that differs is either changed, by the flags that its field names, or refused, with the reason and the way
out: `base.compare` leaves nothing out, because every field of the type must say which. Modules know the configuration
and `deploy.cloud`, not each other's plans; `deploy.plan` puts the steps in order.
"""
