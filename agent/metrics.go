package agent

import "github.com/prometheus/client_golang/prometheus"

// collector makes metrics of Status at each scrape, so that nothing is counted twice. It knows no object names.
type collector struct{ a *Agent }

// gauge is one metric of a root.
type gauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(RootStatus) float64
}

func rootMetric(name, help string, kind prometheus.ValueType, value func(RootStatus) float64) gauge {
	return gauge{prometheus.NewDesc("forebay_agent_"+name, help, []string{"dataset", "root"}, nil), kind, value}
}

// rootMetrics are the metrics of each root.
func rootMetrics() []gauge {
	g, c := prometheus.GaugeValue, prometheus.CounterValue
	return []gauge{
		rootMetric("objects", "Objects in the index.", g, func(r RootStatus) float64 { return float64(r.Objects) }),
		rootMetric("size_bytes", "Bytes of the files in the index.", g, func(r RootStatus) float64 { return float64(r.Bytes) }),
		rootMetric("unsent_objects", "Objects still to be settled with the relay.", g, func(r RootStatus) float64 { return float64(r.UnsentObjects) }),
		rootMetric("unsent_bytes", "Bytes of objects still to be settled with the relay.", g, func(r RootStatus) float64 { return float64(r.UnsentBytes) }),
		rootMetric("uploaded_bytes_total", "Payload bytes acknowledged by the relay.", c, func(r RootStatus) float64 { return float64(r.UploadedBytes) }),
		rootMetric("skipped_objects", "Sockets, devices and pipes.", g, func(r RootStatus) float64 { return float64(r.Skipped) }),
		rootMetric("unreadable_objects", "Objects that could not be read.", g, func(r RootStatus) float64 { return float64(r.Unreadable) }),
		rootMetric("unsettled_objects", "Objects that changed each time they were read.", g, func(r RootStatus) float64 { return float64(r.Unsettled) }),
		rootMetric("lagging_objects", "Objects with the content of an older version.", g, func(r RootStatus) float64 { return float64(r.Lagging) }),
		rootMetric("divergent_objects", "Objects whose content is a fork that lost.", g, func(r RootStatus) float64 { return float64(r.Divergent) }),
		rootMetric("last_scan_timestamp_seconds", "End of the last completed scan, 0 before the first.", g, func(r RootStatus) float64 {
			if r.LastScan.IsZero() {
				return 0
			}
			return float64(r.LastScan.UnixNano()) / 1e9
		}),
		rootMetric("problem_state", "1 while the root is left alone because of a problem.", g, func(r RootStatus) float64 {
			if r.Problem != "" {
				return 1
			}
			return 0
		}),
	}
}

var (
	connected = prometheus.NewDesc("forebay_agent_connected_state", "1 while a relay knows the agent.", nil, nil)
	onBus     = prometheus.NewDesc("forebay_agent_bus_state", "1 while hints arrive over the bus.", nil, nil)
	inFlight  = prometheus.NewDesc("forebay_agent_in_flight_bytes", "Payload bytes sent and not acknowledged.", nil, nil)
)

// Describe tells which metrics there are.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range rootMetrics() {
		out <- m.desc
	}
	out <- connected
	out <- onBus
	out <- inFlight
}

// Collect reads the agent's status.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.a.Status()
	for _, m := range rootMetrics() {
		for _, r := range s.Roots {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(r), r.Dataset, r.Path)
		}
	}
	state := func(d *prometheus.Desc, on bool) {
		v := 0.0
		if on {
			v = 1
		}
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	state(connected, s.Session.Relay != "" || s.Session.ID != 0)
	state(onBus, s.Session.Bus)
	out <- prometheus.MustNewConstMetric(inFlight, prometheus.GaugeValue, float64(s.InFlight))
}
