package restore

// InBatchesOf has o commit so many objects at a time; as the program does when 0.
func (o Options) InBatchesOf(objects int) Options {
	o.batch = objects
	return o
}

// FromBytes has contents of so many bytes and more go on in another restore.
func (o Options) FromBytes(n int64) Options {
	o.large = n
	return o
}
