"""Against real vLLM engines; see CONTRIBUTING.md."""
