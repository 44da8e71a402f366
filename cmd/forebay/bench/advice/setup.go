package advice

import "forebay/shard"

// Setup is the configuration that is judged.
type Setup struct {
	Relay *Relay // nil where there is no relay.yaml
	Agent *Agent // nil where there is no agent.yaml
}

// Relay is what matters of a relay.yaml. Rates are bytes a second, 0 is no limit; times are seconds.
type Relay struct {
	Stores      int // how many the file names: what is to be said of them together needs all
	Coding      shard.Geometry
	Capacity    int64   // raw bytes over all stores; 0 = auto
	HighWater   float64 // 0 to 1
	RebuildRate float64
	ScrubRate   float64
	Scrub       float64 // 0 = never
	Suspicion   float64
	Links       []Link
	// Inflow is what comes in a second, on average, as the operator says; 0 = not told.
	Inflow float64
}

// Link is what matters of a link. What repeats is that of a week.
type Link struct {
	Name, Target  string
	Confirm       string  // "" = auto
	Window        string  // as it is written; "always"
	Open          float64 // seconds of a week in which the link may flush
	LongestClosed float64 // the longest stretch of seconds in which it may not
	Windows       int     // how often it opens in a week: the days of the week where it never closes
	Bandwidth     string  // as it is written; "off"
	// Paced is the average of what bandwidth lets through while a window is open, that of the relay too; 0 = no limit at some time.
	Paced    float64
	Peak     float64 // the most that its own bandwidth lets through; 0 = no limit at some time
	Budget   int64   // bytes a window; 0 = no bound
	Deadline float64 // 0 = none
}

// Agent is what matters of an agent.yaml.
type Agent struct {
	Upload float64 // limits.upload, 0 = off
}

// Level says how much an advice matters.
type Level string

// The levels.
const (
	Warn Level = "warn" // something is at risk, or cannot work
	Set  Level = "set"  // another value would do better
	Note Level = "note" // what the figures mean
)

// Item is one line of advice.
type Item struct {
	Level Level  `json:"level"`
	Key   string `json:"key"`   // of relay.yaml or agent.yaml; "" when it is about none
	Value string `json:"value"` // what to set it to; "" where that is the operator's to choose
	Text  string `json:"text"`  // why
}

// Option is a coding that the stores allow.
type Option struct {
	Coding string  `json:"coding"`
	Chosen bool    `json:"chosen"`       // it is the configured one
	Disks  int     `json:"disks_lost"`   // how many disks may be lost at once, whichever they are
	Usable float64 `json:"usable_ratio"` // part of the raw bytes that is content
	Rate   float64 `json:"bytes_per_second"`
}

// Bound is what one part of the machine lets through, in bytes of content a second.
type Bound struct {
	Part string  `json:"part"`
	Rate float64 `json:"bytes_per_second"`
}

// Advice is what the measurements say.
type Advice struct {
	Items   []Item   `json:"items"`
	Codings []Option `json:"codings"`
	Bounds  []Bound  `json:"bounds"` // the lowest first
	// Acknowledged is the rate to expect for large objects, 0 when too little was measured, and Bottleneck what holds it there.
	Acknowledged float64 `json:"acknowledged_bytes_per_second"`
	Bottleneck   string  `json:"bottleneck"`
}

// Give judges a configuration by what was measured. The same input gives the same advice in the same order.
func Give(m Measured, s Setup) Advice {
	a := &adviser{m: m, s: s, out: Advice{Items: []Item{}, Codings: []Option{}, Bounds: []Bound{}}}
	a.bounds()
	if s.Relay != nil {
		a.disks()
		a.codings()
		a.space()
		a.upkeep()
		a.links()
	}
	a.network()
	return a.out
}

type adviser struct {
	m   Measured
	s   Setup
	out Advice
}

func (a *adviser) add(l Level, key, value, text string) {
	a.out.Items = append(a.out.Items, Item{l, key, value, text})
}

// stores are the disks that hold stores, if all of them were measured: of some of them nothing follows for the others.
func (a *adviser) stores() (out []Disk) {
	for _, d := range a.m.Disks {
		if d.Role == RoleStore && d.Write > 0 {
			out = append(out, d)
		}
	}
	if len(out) != a.s.Relay.Stores {
		return nil
	}
	return out
}
