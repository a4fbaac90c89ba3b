"""mixopt: in which proportions should a pretraining run sample its domains, how sure are we, what does it cost."""
