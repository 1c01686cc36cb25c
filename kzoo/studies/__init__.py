"""Papers as studies: many recipes whose results are tables, from which claims are judged."""
