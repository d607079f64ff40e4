"""Jobs: claiming them, running their attempts, waking up for them. Rules that concurrency can break
live in SQL (flux.claim_jobs, flux.complete_job and friends); what is here calls them."""
