package main

import (
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"forebay/internal/show"
)

// minLast is the narrowest that the last column of a table is made before it runs over the terminal's edge.
const minLast = 24

// table prints rows under a header, columns apart by two blanks and without lines, so that it can be cut with awk. Cells are
// made harmless. On a terminal the last column wraps at its edge. Columns whose header begins with '>' are set to the right.
func (c *cli) table(header []string, rows [][]string) {
	t := table.NewWriter()
	t.SetOutputMirror(c.out)
	style := table.StyleDefault
	style.Options = table.Options{}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)

	used := 0
	var columns []table.ColumnConfig
	head := table.Row{}
	for i, h := range header {
		column := table.ColumnConfig{Number: i + 1}
		if strings.HasPrefix(h, ">") {
			h, column.Align, column.AlignHeader = h[1:], text.AlignRight, text.AlignRight
		}
		if i == len(header)-1 && c.width > 0 {
			column.WidthMax = max(minLast, c.width-used-2)
			column.WidthMaxEnforcer = text.WrapSoft
		}
		widest := len(h)
		for _, row := range rows {
			widest = max(widest, text.StringWidthWithoutEscSequences(row[i]))
		}
		used += widest + 2
		columns = append(columns, column)
		head = append(head, h)
	}
	t.SetColumnConfigs(columns)
	t.AppendHeader(head)
	for _, row := range rows {
		cells := table.Row{}
		for _, cell := range row {
			cells = append(cells, show.Text(cell))
		}
		t.AppendRow(cells)
	}
	t.SuppressTrailingSpaces()
	t.Render()
}

// orDash is a cell that is never empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
