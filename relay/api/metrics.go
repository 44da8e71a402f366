package api

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"forebay/proto"
	"forebay/relay"
)

// metrics serves the figures of the status: one source, so that they cannot disagree. Labels are names of the configuration,
// never of objects.
func (a *API) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(statusCollector{a.relay}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

type statusCollector struct{ relay *relay.Relay }

type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) figure {
	return figure{prometheus.NewDesc("forebay_"+name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) figure {
	return figure{prometheus.NewDesc("forebay_"+name, help, labels, nil), prometheus.CounterValue}
}

var (
	mHealth      = gauge("relay_health_ratio", "1 green, 0.5 yellow, 0 red.")
	mProblems    = gauge("relay_problems_count", "Problems that stand, by code.", "code")
	mLedger      = gauge("ledger_waiting_seconds", "For how long the disk of the ledger has answered nothing, while something waits for it.")
	mUsed        = gauge("cache_used_bytes", "Raw bytes in all stores.")
	mCapacity    = gauge("cache_capacity_bytes", "Raw bytes that the stores may hold.")
	mAcked       = counter("cache_acked_bytes_total", "Payload bytes acknowledged.")
	mWasted      = counter("cache_wasted_bytes_total", "Payload bytes received twice or for nothing.")
	mWritten     = counter("cache_written_bytes_total", "Bytes written to the stores since the relay's start.")
	mInflow      = gauge("cache_inflow_bytes_per_second", "Payload acknowledged over the last minute.")
	mOutage      = gauge("cache_outage_seconds", "How long the cache can take the present inflow with no flush.")
	mDegraded    = gauge("cache_degraded_segments", "Segments with fewer good shards within reach than their coding.")
	mRebuilding  = gauge("cache_rebuild_bytes", "Bytes of segments that wait to be coded anew.")
	mBadShards   = counter("cache_bad_shards_total", "Shards that the scrub found damaged or absent.")
	mHealed      = counter("cache_healed_shards_total", "Shards of them that were written anew.")
	mStoreOK     = gauge("store_ok_bool", "1 when the store is in use.", "store")
	mNodeAlive   = gauge("node_alive_bool", "1 when the node's agent is connected.", "cluster", "node")
	mUploaded    = counter("node_uploaded_bytes_total", "Payload bytes accepted from the node.", "cluster", "node")
	mTakeovers   = counter("node_takeovers_total", "Uploads that the node carried on for another.", "cluster", "node")
	mUnsent      = gauge("node_unsent_bytes", "Bytes that the node has still to settle.", "cluster", "node")
	mUnreadable  = gauge("node_unreadable_objects", "Objects that the node's agent cannot read.", "cluster", "node")
	mBacklog     = gauge("link_backlog_bytes", "Bytes that the link owes.", "link")
	mBacklogObj  = gauge("link_backlog_objects", "Versions that the link owes.", "link")
	mLag         = gauge("link_lag_seconds", "Now less the instant up to which the target equals the source.", "link")
	mOldest      = gauge("link_oldest_seconds", "Age of the oldest version that the link owes.", "link")
	mConfirmed   = counter("link_confirmed_bytes_total", "Bytes confirmed on the target.", "link")
	mConfirmedOb = counter("link_confirmed_objects_total", "Versions confirmed on the target.", "link")
	mParked      = gauge("link_parked_objects", "Versions set aside after errors.", "link")
	mKept        = gauge("link_kept_versions", "Versions that the target keeps of what was overwritten and deleted.", "link")
	mKeptBytes   = gauge("link_kept_bytes", "Bytes of their contents.", "link")
	mHeld        = gauge("link_held_deletes", "Deletes that the guard holds.", "link")
	mStalled     = gauge("link_stalled_bool", "1 when the link's target cannot be reached.", "link")
	mForced      = counter("link_forced_bytes_total", "Bytes sent outside the window, or over its budget, because the policy forced it.", "link")
	mBudgetLeft  = gauge("link_budget_left_bytes", "What is left of the budget of the present window.", "link")
)

// Describe implements prometheus.Collector. Nothing is described: which labels there are depends on the configuration.
func (statusCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c statusCollector) Collect(ch chan<- prometheus.Metric) {
	s, err := c.relay.Status(context.Background())
	if err != nil {
		ch <- prometheus.NewInvalidMetric(mHealth.desc, err)
		return
	}
	put := func(f figure, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, v, labels...)
	}
	put(mHealth, map[proto.Health]float64{proto.Green: 1, proto.Yellow: 0.5, proto.Red: 0}[s.Health])
	codes := map[string]int{}
	for _, p := range s.Problems {
		codes[p.Code]++
	}
	for code, n := range codes {
		put(mProblems, float64(n), code)
	}
	put(mLedger, s.Ledger.WaitingSeconds)
	put(mUsed, float64(s.Cache.UsedBytes))
	put(mCapacity, float64(s.Cache.CapacityBytes))
	put(mAcked, float64(s.Cache.AckedBytes))
	put(mWasted, float64(s.Cache.WastedBytes))
	put(mWritten, float64(s.Cache.WrittenBytes))
	put(mInflow, s.Cache.InflowBytesPerSecond)
	put(mOutage, s.Cache.OutageSeconds)
	put(mDegraded, float64(s.Cache.DegradedSegments))
	put(mRebuilding, float64(s.Cache.Rebuild.WaitingBytes))
	put(mBadShards, float64(s.Cache.Scrub.FoundTotal))
	put(mHealed, float64(s.Cache.Scrub.HealedTotal))
	for _, st := range s.Cache.Stores {
		put(mStoreOK, truth(st.State == "ok"), st.Path)
	}
	for _, n := range s.Nodes {
		put(mNodeAlive, truth(n.State == "alive" || n.State == "suspect"), n.Cluster, n.Node)
		put(mUploaded, float64(n.UploadedBytes), n.Cluster, n.Node)
		put(mTakeovers, float64(n.Takeovers), n.Cluster, n.Node)
		put(mUnsent, float64(n.UnsentBytes), n.Cluster, n.Node)
		put(mUnreadable, float64(n.Unreadable), n.Cluster, n.Node)
	}
	for _, l := range s.Links {
		put(mBacklog, float64(l.BacklogBytes), l.Name)
		put(mBacklogObj, float64(l.BacklogObjects), l.Name)
		put(mLag, l.LagSeconds, l.Name)
		put(mOldest, l.OldestSeconds, l.Name)
		put(mConfirmed, float64(l.ConfirmedBytes), l.Name)
		put(mConfirmedOb, float64(l.ConfirmedObjects), l.Name)
		put(mParked, float64(l.ParkedObjects), l.Name)
		put(mKept, float64(l.KeptVersions), l.Name)
		put(mKeptBytes, float64(l.KeptBytes), l.Name)
		put(mHeld, float64(l.HeldDeletes), l.Name)
		put(mStalled, truth(l.State == "stalled"), l.Name)
		put(mForced, float64(l.ForcedBytes), l.Name)
		if l.BudgetBytes > 0 {
			put(mBudgetLeft, float64(l.BudgetLeftBytes), l.Name)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
