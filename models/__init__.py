"""The AI models that ship with the node, each in a folder of its own behind one contract."""
