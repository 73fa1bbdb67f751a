"""The virtual board: executes machine code under an emulator and follows its memory."""
