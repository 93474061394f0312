"""What developers measure beside `pingup bench`: the store alone, without broker, signatures and sockets."""
