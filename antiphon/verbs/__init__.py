"""What a user does, as functions: one file for each verb. The command line only renders them."""
