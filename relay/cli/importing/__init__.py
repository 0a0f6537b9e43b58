"""`relay jobs import`: from lines and pastes of any kind to registrations, in batches, and a report of the rest."""
