"""What several tests need: boards, modules, bundles, planted errors, code of one's own."""
