//! Floor 9: commands: assembly and talk with the user.
