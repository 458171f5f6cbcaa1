"""A Hugging Face model in (`load`), the sum of nats that training differentiates out (`loss`), and the model's folder back (`load`).

Between them: where things are in a family (`family`), documents kept apart (`attention`, `varlen`), rows on a device (`batch`), the
precision, the gates that every start must pass (`gates`), and what a method against forgetting may do (`hooks`). Needs torch and
transformers, no other room.
"""
