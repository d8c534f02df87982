"""Fine-tuning of the trunk's upper blocks together with a head."""
