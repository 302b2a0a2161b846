"""What users said of the replies they got: logs of conversations into complaints."""
