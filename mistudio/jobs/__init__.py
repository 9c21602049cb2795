"""Use cases: each job joins the layers below it and runs equally under window and command line."""
