package restore

// InBatchesOf has o commit so many objects at a time; as the program does when 0.
func (o Options) InBatchesOf(objects int) Options {
	o.batch = objects
	return o
}
