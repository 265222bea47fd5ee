module github.com/gatehouse/listener

go 1.26.0
