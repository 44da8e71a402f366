package restore

// InBatchesOf has o commit so many objects at a time.
func (o Options) InBatchesOf(objects int) Options {
	o.batch = objects
	return o
}
