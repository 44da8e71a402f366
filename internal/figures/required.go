package figures

import "slices"

// The names of sides that figures are required of. Who measures uses them.
const (
	Forebay      = "Forebay"
	Confirmed    = "Forebay, confirmed"
	Watched      = "Forebay, a change by the watch"
	Floor        = "floor: cp and sync"
	Rsync        = "rsync -a"
	RsyncFsync   = "rsync -a --fsync"
	RsyncDryRun  = "rsync -a --dry-run"
	Restic       = "restic"
	RcloneMinIO  = "rclone to MinIO"
	Rclone       = "rclone"
	JetStream    = "JetStream object store"
	OneAgent     = "one agent"
	TenAgents    = "ten agents"
	Nothing      = "nothing beside it"
	AgentPeak    = "agent_peak_bytes"
	RelayPeak    = "relay_peak_bytes"
	AgentShare   = "agent_core_share" // of one core
	RelayShare   = "relay_core_share"
	ReadP99      = "read_p99_seconds"
	WriteP99     = "write_p99_seconds"
	RelayWritten = "relay_written_bytes" // from the agent's start to the relay's end
)

// required are the figures that Forebay has to reach, in the order of the table.
func required() []requirement {
	all := slices.Concat(requiredAcknowledged(), requiredSmall())
	for _, target := range []string{"dir on ext4", "versitygw", "MinIO"} {
		all = append(all, besideRclone("confirmed, large files", target+": at least 1 × rclone", target+": large, flush"))
	}
	const rescan = "rescan of what has not changed"
	half := fold(rescan, "rescan", "at most half its CPU with the watch in use", ratio(Watched, RsyncDryRun, CPU))
	all = append(all, faster(rescan, "rescan", RsyncDryRun, "at least 1 × `rsync -a --dry-run`", 1, 0), half.atMost(0.5))
	for _, target := range []string{"dir on ext4", "versitygw", "MinIO", "OpenSSH"} {
		for _, what := range []string{"large", "small"} {
			all = append(all, besideRclone("restore", target+", "+what+" files: at least 1 × rclone", target+": "+what+", restore"))
		}
	}
	return slices.Concat(all, requiredTogether(), requiredOfPrimary())
}

func requiredAcknowledged() []requirement {
	const (
		large  = "acknowledged, large files, one store"
		coded  = "acknowledged, large files, six stores on one disk, 4+2"
		source = "acknowledged, Go source tree"
	)
	return []requirement{
		faster(large, "large", RsyncFsync, "at least 1.2 × `rsync -a --fsync`, aim 1.5", 1.2, 1.5),
		faster(large, "large", RcloneMinIO, "at least 2 × rclone to MinIO", 2, 0),
		faster(large, "large", JetStream, "at least 1.5 × JetStream's object store", 1.5, 0),
		faster(large, "large", Floor, "aim 0.8 × the floor", 0, 0.8),
		fold(coded, "coded", "bytes written at most 1.02 × (k+m)/k", overheadOf(Forebay, RelayWritten, 1.5)).atMost(1.02),
		faster(coded, "coded", Floor, "at least 0.5 × the floor for those bytes, aim 0.8", 0.5, 0.8),
		faster(source, "source", RsyncFsync, "at least 3 × `rsync -a --fsync`", 3, 0),
		faster(source, "source", Rsync, "at least 1.5 × `rsync -a`", 1.5, 0),
		faster(source, "source", RcloneMinIO, "at least 5 × rclone to MinIO", 5, 0),
	}
}

func requiredSmall() []requirement {
	const small = "a million files of 4 KiB"
	memory := func(text, what string, most float64) requirement {
		r := requirement{work: small, layer: "small", text: text, value: samples(Forebay, what), format: "%.0f", unit: " MiB"}
		r.scale = 1.0 / (1 << 20)
		return r.atMost(most * (1 << 20))
	}
	rate := requirement{work: small, layer: "small", text: "at least 20,000 objects/s acknowledged", format: "%.0f", unit: " objects/s"}
	rate.value, rate.limit = perSecond(Forebay), 20_000
	dir := fold(small, "small", "confirmed on `dir`: at least 1 × `rsync -a`", ratio(Rsync, Confirmed, Wall))
	s3 := fold(small, "small-s3", "confirmed on S3 (MinIO): at least 1 × rclone with its best settings", ratio(RcloneMinIO, Confirmed, Wall))
	dir.limit, s3.limit = 1, 1
	return []requirement{rate, memory("agent at most 150 MiB", AgentPeak, 150), memory("relay at most 512 MiB", RelayPeak, 512), dir, s3}
}

// requiredTogether are those of many agents, of what goes over the wire beside the content, and of daemons that have nothing to do.
func requiredTogether() []requirement {
	const ten = "ten agents at once"
	together := fold(ten, "ten", "within 10 % of one agent's total", ratio(OneAgent, TenAgents, Wall))
	together.limit = 0.9
	memory := fold(ten, "ten", "relay's memory bounded by the windows: its peak, by that with one", ratio(TenAgents, OneAgent, RelayPeak))
	percent := func(work, layer, text string, value func(Report) []float64, most float64) requirement {
		r := requirement{work: work, layer: layer, text: text, value: value, format: "%.3f", unit: " %%", scale: 100}
		return r.atMost(most)
	}
	small := requirement{
		work: "control, small files", layer: "small",
		text:  "at most 150 B on the wire per object and holder, here with the headers of TCP and IP",
		value: control(Objects), format: "%.0f", unit: " B",
	}
	return []requirement{
		together, memory,
		percent("control, large files", "large", "at most 0.1 % of payload, here with the headers of TCP and IP", control(Bytes), 0.001),
		small.atMost(150),
		percent("idle", "idle", "agent under 1 % of one core", samples(Forebay, AgentShare), 0.01),
		percent("idle", "idle", "relay under 1 % of one core", samples(Forebay, RelayShare), 0.01),
	}
}

// requiredOfPrimary is what whoever uses a node's disk may notice, beside what they notice of others.
func requiredOfPrimary() (all []requirement) {
	for _, what := range []struct{ name, sample string }{{"reads", ReadP99}, {"writes", WriteP99}} {
		ours := fold("the primary", "primary", "p99 of "+what.name+" at most 1.2 × without", ratio(Forebay, Nothing, what.sample))
		all = append(all, ours.atMost(1.2),
			fold("the primary", "primary", "beside it, "+what.name+" with rsync", ratio(Rsync, Nothing, what.sample)),
			fold("the primary", "primary", "beside it, "+what.name+" with rclone", ratio(Rclone, Nothing, what.sample)))
	}
	return all
}

// fold is a requirement of a ratio, without a limit yet.
func fold(work, layer, text string, value func(Report) []float64) requirement {
	return requirement{work: work, layer: layer, text: text, value: value, format: "%.2f", unit: " ×"}
}

// faster is that Forebay is so many times as fast as a peer.
func faster(work, layer, peer, text string, limit, aim float64) requirement {
	r := fold(work, layer, text, ratio(peer, Forebay, Wall))
	r.limit, r.aim = limit, aim
	return r
}

// besideRclone is that Forebay is as fast as rclone is with the same target.
func besideRclone(work, text, what string) requirement {
	r := fold(work, "targets", text, samples(what, "ratio"))
	r.limit = 1
	return r
}

func (r requirement) atMost(limit float64) requirement {
	r.limit, r.most = limit, true
	return r
}

func samples(side, what string) func(Report) []float64 {
	return func(r Report) []float64 { return r.Samples[SampleOf(side, what)] }
}

// ratio is that of two sides, round by round.
func ratio(of, to, what string) func(Report) []float64 {
	return func(r Report) (out []float64) {
		a, b := r.Samples[SampleOf(of, what)], r.Samples[SampleOf(to, what)]
		for i := range min(len(a), len(b)) {
			out = append(out, a[i]/b[i])
		}
		return out
	}
}

// overheadOf is what was written for each byte that has to be.
func overheadOf(side, what string, byRight float64) func(Report) []float64 {
	return func(r Report) (out []float64) {
		for _, v := range r.Samples[SampleOf(side, what)] {
			out = append(out, v/(r.Samples[Bytes][0]*byRight))
		}
		return out
	}
}

func perSecond(side string) func(Report) []float64 {
	return func(r Report) (out []float64) {
		for _, v := range r.Samples[SampleOf(side, Wall)] {
			out = append(out, r.Samples[Objects][0]/v)
		}
		return out
	}
}

// control is what went over the wire beyond the content, for each byte of it (Bytes) or for each object (Objects).
func control(per string) func(Report) []float64 {
	return func(r Report) (out []float64) {
		for _, v := range r.Samples[SampleOf(Forebay, Wire)] {
			out = append(out, (v-r.Samples[Bytes][0])/r.Samples[per][0])
		}
		return out
	}
}
