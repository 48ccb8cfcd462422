"""From a log of impressions to what models read: fields, context, histories, examples, and batches of them."""
