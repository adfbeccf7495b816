"""The processes of a launch: who they are, how they talk, and what they must agree on."""
