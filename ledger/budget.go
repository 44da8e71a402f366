package ledger

import "slices"

// BudgetRow is what a link was charged for the bytes that it sent, by windows of its policy, in the order in which they were
// charged last. Only the last maxBudgetWindows are kept.
type BudgetRow struct {
	Windows []BudgetWindow `cbor:"1,keyasint"`
}

// BudgetWindow is what was charged to one window. A window is known by when it opened: no restart and no jump of the clock makes
// another one of it.
type BudgetWindow struct {
	OpenedNs int64 `cbor:"1,keyasint"`
	Bytes    int64 `cbor:"2,keyasint"` // sent, or set aside to be sent
	LastNs   int64 `cbor:"3,keyasint"` // the latest time at which it was charged
}

// maxBudgetWindows is how many windows are remembered: of one a night, two months.
const maxBudgetWindows = 64

// Charge charges bytes to a window of a link before they are sent, or gives back what was charged and not sent (Bytes below 0).
type Charge struct {
	Link     LinkID
	OpenedNs int64 // when the window opened
	NowNs    int64
	Bytes    int64
	Limit    int64 // the window is charged up to it in all and no further; 0: no limit

	Charged int64 // result: how many of Bytes
	Spent   int64 // result: the window, as BudgetRow.Spent has it afterwards
}

func (e *Charge) apply(tx *txn) error {
	if _, err := tx.link(e.Link); err != nil {
		return err
	}
	k := key(pBudget, e.Link)
	var row BudgetRow
	if _, err := get(tx, k, &row); err != nil {
		return err
	}
	e.Charged = e.Bytes
	if e.Bytes > 0 && e.Limit > 0 {
		e.Charged = max(min(e.Bytes, e.Limit-row.Spent(e.OpenedNs, e.NowNs)), 0)
	}
	row.charge(e.OpenedNs, e.NowNs, e.Charged)
	e.Spent = row.Spent(e.OpenedNs, e.NowNs)
	return put(tx, k, &row)
}

func (r *BudgetRow) charge(opened, now, bytes int64) {
	w := BudgetWindow{OpenedNs: opened}
	if i := slices.IndexFunc(r.Windows, func(w BudgetWindow) bool { return w.OpenedNs == opened }); i >= 0 {
		w = r.Windows[i]
		r.Windows = slices.Delete(r.Windows, i, i+1)
	}
	w.Bytes = max(w.Bytes+bytes, 0)
	if bytes > 0 {
		w.LastNs = max(w.LastNs, now)
	}
	r.Windows = append(r.Windows, w)
	r.Windows = r.Windows[max(len(r.Windows)-maxBudgetWindows, 0):]
}

// Spent returns what counts against the budget of the window that opened at opened, as the clock says now: what was charged to
// it, and to other windows since it opened. The latter there is only after the windows of a policy were changed, in the middle of
// one: an operator who moves a window's beginning gets no second budget. Windows that lie ahead of the clock, which was set back
// then, have budgets of their own.
func (r *BudgetRow) Spent(opened, now int64) (sum int64) {
	for _, w := range r.Windows {
		if w.OpenedNs == opened || w.OpenedNs <= now && w.LastNs > opened {
			sum += w.Bytes
		}
	}
	return sum
}

// Budget returns what a link was charged; empty for one that has sent nothing.
func Budget(r Rows, id LinkID) (row BudgetRow, err error) {
	_, err = get(r, key(pBudget, id), &row)
	return row, err
}

// RecoverBudget puts back what a link was charged.
type RecoverBudget struct {
	Link    LinkID
	Windows []BudgetWindow
}

func (e *RecoverBudget) apply(tx *txn) error {
	if _, err := tx.link(e.Link); err != nil || len(e.Windows) == 0 {
		return err
	}
	return put(tx, key(pBudget, e.Link), &BudgetRow{Windows: e.Windows})
}
