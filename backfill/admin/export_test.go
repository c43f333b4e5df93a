package admin

// SpareBytes sets how large an index may be that has few rows.
func (a *Admin) SpareBytes(n int64) { a.spare = n }
