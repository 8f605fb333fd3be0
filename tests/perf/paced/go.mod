module paced

go 1.22
