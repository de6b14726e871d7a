//! Delivery: one pump per sink, from the journal to the broker's confirm.
