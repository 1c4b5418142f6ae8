"""One picture a file, each on matplotlib axes given or new; its title states what it shows."""
