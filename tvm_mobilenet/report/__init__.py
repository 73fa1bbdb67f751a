"""Pages that verbs write: one layout, charts by Vega-Lite, tables that sort; one file that loads nothing."""
