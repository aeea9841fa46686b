"""Made from `_async` by `.ci/make-sync-client`; do not edit."""
