
def missing(trt): return []
def unimplemented(trt): return []
