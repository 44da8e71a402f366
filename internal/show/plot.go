package show

import "strings"

// eighths are bars of one to eight eighths of a line.
var eighths = []rune("▁▂▃▄▅▆▇█")

// Plot draws values over time as bars, height lines of width columns, lowest value 0. Each column shows the highest of its values, so
// that no peak is lost; label prints a value for the axis on the left.
func Plot(values []float64, width, height int, label func(float64) string) []string {
	if len(values) == 0 || width < 1 || height < 1 {
		return nil
	}
	width = min(width, len(values))
	columns, top := make([]float64, width), 0.0
	for i, v := range values {
		c := i * width / len(values)
		columns[c] = max(columns[c], v)
		top = max(top, v)
	}
	axis := [2]string{label(top), label(0)}
	wide := max(len([]rune(axis[0])), len([]rune(axis[1])))
	out := make([]string, height)
	for line := range height {
		left := ""
		switch line {
		case 0:
			left = axis[0]
		case height - 1:
			left = axis[1]
		}
		var b strings.Builder
		b.WriteString(strings.Repeat(" ", wide-len([]rune(left))) + left + " |")
		for _, v := range columns {
			b.WriteRune(bar(v, top, height-1-line, height))
		}
		out[line] = strings.TrimRight(b.String(), " ")
	}
	return out
}

// bar is what a column of height lines shows in a line, counted from below.
func bar(v, top float64, line, height int) rune {
	if top <= 0 || v <= 0 {
		return ' '
	}
	n := int(v/top*float64(height*len(eighths))+0.5) - line*len(eighths)
	if n <= 0 {
		if line == 0 {
			return eighths[0] // a little is not nothing
		}
		return ' '
	}
	return eighths[min(n, len(eighths))-1]
}
