"""What programs of other makers read and write: messages by NOTIFY, recorded results, JSON, histograms."""
