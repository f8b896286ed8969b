"""The demo of payment_fraud: cards that pay, some of them defrauded."""
