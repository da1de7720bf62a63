"""Named controls of a face and the transfer of traits between faces."""
