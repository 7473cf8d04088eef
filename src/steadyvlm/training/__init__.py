"""Methods that have to be trained before they can be used: the model stays frozen, what is trained is saved apart."""
