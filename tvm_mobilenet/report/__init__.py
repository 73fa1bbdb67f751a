"""Pages that verbs write: one layout, charts by Vega-Lite, sortable tables, in one self-contained file."""
