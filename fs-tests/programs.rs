//! Programs of every day, in a real mount: version control, compilers, copiers, archivers, editors, mail.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{Node, Plan};
use harness::program::{DATA_PATHS, assert_published, have, program, python, run, script, succeed};
use harness::tree::{self, noise};
use harness::{Lab, printed, require_fuse, shell};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn mounted(lab: &Lab, options: &str) -> Node {
    require_fuse();
    println!("-o {options}");
    Plan::new("a").mounted().option(options).start(lab)
}

// Promise 14 of tornet(7).
#[test]
fn git_works_in_the_mount_and_what_is_published_is_the_repository() {
    if !have(&["git"]) {
        return;
    }
    let lab = Lab::new();
    let source = lab.make_dir("source");
    tree::make_many(&source, 30, 700);
    for line in ["git init --quiet --initial-branch=main", "git add --all", "git commit --quiet --message=first"] {
        run(&source, line);
    }
    for options in ["rw", "nopassthrough"] {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        let origin = source.to_str().unwrap();
        // Hard links to objects on another file system cannot be made: git copies them.
        run(a.mount(), &format!("git clone --quiet {origin} work"));
        let work = a.path("work");
        run(a.mount(), "git clone --quiet --local work second");
        fs::write(work.join("d000/f00001"), b"changed\n").unwrap();
        fs::write(work.join("new file"), b"new\n").unwrap();
        fs::remove_file(work.join("d000/f00002")).unwrap();
        assert_eq!(run(&work, "git status --porcelain").lines().count(), 3);
        run(&work, "git add --all");
        run(&work, "git commit --quiet --message=second");
        assert_eq!(run(&work, "git status --porcelain"), "");
        run(&work, "git worktree add --quiet ../tree -b side HEAD~1");
        fs::write(a.path("tree/side"), b"side\n").unwrap();
        run(&a.path("tree"), "git add side");
        run(&a.path("tree"), "git commit --quiet --message=side");
        run(&work, "git merge --quiet --no-edit side");
        run(&work, "git stash list");
        run(&work, "git gc --quiet --prune=now");
        run(&work, "git fsck --full --strict --no-progress");
        assert_eq!(run(&work, "git status --porcelain"), "");
        assert_eq!(run(&work, "git rev-list --count HEAD").trim(), "4");
        run(&a.path("second"), "git pull --quiet --no-rebase origin main");
        assert_eq!(fs::read(a.path("second/side")).unwrap(), b"side\n");
        assert_published(&a, "");
        // A repository is cloned from its published copy.
        let reference = a.stored(&work);
        let safe = format!("safe.directory={}", a.reference(&reference).display());
        let clone = lab.path("clone");
        succeed(
            program("git", lab.dir()).args(["-c", &safe, "clone", "--quiet"]).arg(a.reference(&reference)).arg(&clone),
        );
        assert_eq!(run(&clone, "git rev-list --count HEAD").trim(), "4");
    }
}

// Promise 14 of tornet(7).
#[test]
fn crate_is_built_in_the_mount_and_built_again_where_it_changed() {
    if !have(&["cargo"]) {
        return;
    }
    let lab = Lab::new();
    let a = mounted(&lab, "rw");
    let dir = a.path("hello");
    fs::create_dir_all(dir.join("src")).unwrap();
    fs::write(dir.join("Cargo.toml"), "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n")
        .unwrap();
    let build = || {
        let mut command = program("cargo", &dir);
        command.args(["build", "--offline"]).env("CARGO_TARGET_DIR", a.path("target")).env("CARGO_INCREMENTAL", "1");
        for other in ["RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"] {
            command.env_remove(other);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        (succeed(&mut program(a.path("target/debug/hello"), &dir)), printed(&output))
    };
    for word in ["one", "two"] {
        let text = format!("mod word;\nfn main() {{ println!(\"{{}}\", word::WORD); }}\n// {word}\n");
        fs::write(dir.join("src/main.rs"), text).unwrap();
        fs::write(dir.join("src/word.rs"), format!("pub const WORD: &str = \"{word}\";\n")).unwrap();
        assert_eq!(build().0, format!("{word}\n"));
    }
    let (_, said) = build();
    assert!(!said.contains("Compiling"), "nothing changed: {said}");
    assert_published(&a, "");
}

/// A tree as of long ago: rsync compares whole seconds, and leaves the time of a directory alone that is of the same second.
fn make_aged(root: &Path) {
    tree::make_many(root, 25, 3000);
    fs::write(root.join("large"), noise(1, 2_500_000)).unwrap();
    fs::hard_link(root.join("large"), root.join("large-too")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    fs::write(root.join("private"), b"secret").unwrap();
    fs::set_permissions(root.join("private"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("large", root.join("link")).unwrap();
    shell(&format!("find '{}' -exec touch -h -d '2001-02-03 04:05:06.789012345' {{}} +", root.display()));
}

// Promise 14 of tornet(7).
#[test]
fn rsync_in_all_its_modes_copies_once_and_finds_nothing_to_do_again() {
    if !have(&["rsync", "find", "touch"]) {
        return;
    }
    let lab = Lab::new();
    let source = lab.make_dir("source");
    make_aged(&source);
    let a = mounted(&lab, "rw");
    let modes = [
        "-a",
        "-aH",
        "-aHAX",
        "-aS",
        "-a --inplace",
        "-a --append-verify",
        "-a --delete",
        "-a --checksum",
        "-a --delay-updates",
        "-a --whole-file --fsync",
    ];
    for (place, mode) in modes.iter().enumerate() {
        let dest = a.path(format!("d{place}"));
        fs::create_dir(&dest).unwrap();
        // What an earlier run left: half a file, an old one, one too many.
        fs::write(dest.join("large"), &noise(1, 2_500_000)[..1_000_000]).unwrap();
        fs::write(dest.join("private"), b"s").unwrap();
        if mode.contains("--delete") {
            fs::create_dir(dest.join("gone")).unwrap();
            fs::write(dest.join("gone/file"), b"x").unwrap();
        }
        let inode = fs::metadata(dest.join("large")).unwrap().ino();
        let line = format!("rsync {mode} --no-whole-file --itemize-changes {}/ {}", source.display(), dest.display());
        let line = if mode.contains("--whole-file") { line.replace(" --no-whole-file", "") } else { line };
        let said = run(lab.dir(), &line);
        assert!(said.contains("large"), "{mode}: {said}");
        tree::assert_same(&source, &dest);
        let same = fs::metadata(dest.join("large")).unwrap().ino() == inode;
        assert_eq!(same, mode.contains("--inplace") || mode.contains("--append"), "{mode}: the inode");
        assert_eq!(run(lab.dir(), &line), "", "{mode}: a second run");
        if mode.contains('H') {
            assert_eq!(fs::metadata(dest.join("large")).unwrap().nlink(), 2, "{mode}");
        }
        if mode.contains('S') {
            assert!(fs::metadata(dest.join("sparse")).unwrap().blocks() < 1000, "{mode}: a hole stays one");
        }
    }
    assert_published(&a, "");
    // Out of a published tree, too, and once only.
    let out = lab.path("out");
    let reference = a.stored(&a.path("d0"));
    let line = format!("rsync -a --itemize-changes {}/ {}", a.reference(&reference).display(), out.display());
    assert_ne!(run(lab.dir(), &line), "");
    tree::assert_same(&source, &out);
    assert_eq!(run(lab.dir(), &line), "", "out of ref/");
}

// Promise 14 of tornet(7).
#[test]
fn archives_are_made_of_the_mount_and_unpacked_in_it_with_holes_and_links() {
    if !have(&["tar", "python3", "find", "touch"]) {
        return;
    }
    let lab = Lab::new();
    let source = lab.make_dir("source");
    make_aged(&source);
    let a = mounted(&lab, "rw");
    let (from, here) = (source.display().to_string(), a.mount().to_path_buf());
    run(&here, &format!("tar --format=posix -Scf all.tar -C {from} ."));
    fs::create_dir(a.path("tar")).unwrap();
    run(&here, "tar -xpf all.tar -C tar");
    tree::assert_same(&source, &a.path("tar"));
    assert_eq!(fs::metadata(a.path("tar/large")).unwrap().nlink(), 2);
    assert!(fs::metadata(a.path("tar/sparse")).unwrap().blocks() < 1000, "a hole stays one");
    run(&here, "tar --format=posix -Scf again.tar -C tar .");
    assert!(fs::metadata(a.path("again.tar")).unwrap().len() < 4 << 20, "the hole was seen and not written out");
    run(&here, "tar --compare -f again.tar -C tar");
    let zip = "
import os, sys, zipfile
with zipfile.ZipFile('all.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
    for dir, _, names in os.walk('tar'):
        for name in names: archive.write(os.path.join(dir, name))
with zipfile.ZipFile('all.zip', 'a') as archive: archive.writestr('added', b'later')
with zipfile.ZipFile('all.zip') as archive:
    assert archive.testzip() is None
    archive.extractall('zip')
assert open('zip/added').read() == 'later'
";
    python(&here, zip, &[]);
    assert_eq!(fs::read(a.path("zip/tar/large")).unwrap(), noise(1, 2_500_000));
    if have(&["zip", "unzip"]) {
        run(&here, "zip -q -r -y other.zip tar");
        run(&here, "unzip -q other.zip -d unzip");
        tree::assert_same(&a.path("tar"), &{
            // Archives of this kind keep whole seconds: contents are compared, then the times made alike.
            shell(&format!(
                "find '{}' -exec touch -h -d '2001-02-03 04:05:06.789012345' {{}} +",
                a.path("unzip").display()
            ));
            a.path("unzip/tar")
        });
    }
    assert_published(&a, "");
}

// Promise 14 of tornet(7).
#[test]
fn reader_that_seeks_by_an_index_finds_its_way_in_a_reference() {
    if !have(&["python3"]) {
        return;
    }
    let lab = Lab::new();
    let a = mounted(&lab, "rw");
    // As films are laid out: frames first, then an index, and at the very end where the index begins.
    let write = "
import hashlib, random, struct
dice, index = random.Random(1), []
with open('film', 'wb') as film:
    for _ in range(400):
        frame = dice.randbytes(dice.randrange(1, 60000))
        index.append((film.tell(), len(frame), hashlib.sha256(frame).digest()))
        film.write(frame)
    start = film.tell()
    for entry in index: film.write(struct.pack('<QI32s', *entry))
    film.write(struct.pack('<QI', start, len(index)))
";
    let read = "
import hashlib, random, struct, sys
with open(sys.argv[1], 'rb') as film:
    film.seek(-12, 2)
    start, count = struct.unpack('<QI', film.read(12))
    film.seek(start)
    index = [struct.unpack('<QI32s', film.read(44)) for _ in range(count)]
    random.Random(2).shuffle(index)
    for offset, length, digest in index:
        film.seek(offset)
        assert hashlib.sha256(film.read(length)).digest() == digest, offset
    print(count)
";
    python(a.mount(), write, &[]);
    let reference = a.reference(&a.stored(&a.path("film")));
    assert_eq!(python(lab.dir(), read, &[reference.to_str().unwrap()]).trim(), "400");
}

// Promise 14 of tornet(7).
#[test]
fn saves_of_editors_are_published_as_the_last_of_them_left_the_file() {
    if !have(&["python3"]) {
        return;
    }
    // Emacs renames the old file to a backup, or copies it and writes in place; others write a new file and rename it.
    let save = "
import os, shutil, sys
way, name, text = sys.argv[1:]
def write(path, flags, mode=0o644):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, mode)
    os.write(fd, text.encode()); os.fsync(fd); os.close(fd)
if way == 'backup-by-rename':
    os.symlink('me@host.1', '.#' + name)
    if os.path.exists(name): os.rename(name, name + '~')
    write(name, os.O_EXCL)
    os.unlink('.#' + name)
elif way == 'backup-by-copy':
    if os.path.exists(name): shutil.copy2(name, name + '~')
    write(name, os.O_TRUNC)
elif way == 'rename':
    write(name + '.tmp', os.O_EXCL, 0o600)
    if os.path.exists(name): shutil.copymode(name, name + '.tmp')
    os.replace(name + '.tmp', name)
    dir = os.open('.', os.O_RDONLY); os.fsync(dir); os.close(dir)
elif way == 'in-place':
    with open(name, 'r+' if os.path.exists(name) else 'w') as file:
        file.write(text); file.truncate()
assert open(name).read() == text
";
    for options in ["rw", "nopassthrough"] {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        for way in ["backup-by-rename", "backup-by-copy", "rename", "in-place"] {
            for round in 0..3 {
                let text = format!("{way}, {round}\n").repeat(500 - round * 100);
                python(a.mount(), save, &[way, way, &text]);
                assert_eq!(fs::read_to_string(a.path(way)).unwrap(), text);
            }
        }
        if have(&["vim"]) {
            for (place, settings) in
                ["backup backupcopy=no", "backup backupcopy=yes", "nobackup nowritebackup", "backupcopy=auto undofile"]
                    .iter()
                    .enumerate()
            {
                let name = format!("vim{place}");
                fs::write(a.path(&name), "first\n").unwrap();
                for round in 0..3 {
                    let mut vim = program("vim", a.mount());
                    vim.args(["-u", "NONE", "-i", "NONE", "-N", "-es", "-c", &format!("set {settings}")]);
                    let edit = format!("call append('$', 'line {round}')");
                    vim.args(["-c", &edit, "-c", "wq", &name]).env("HOME", lab.dir()).env("TERM", "dumb");
                    succeed(&mut vim);
                }
                assert_eq!(fs::read_to_string(a.path(&name)).unwrap(), "first\nline 0\nline 1\nline 2\n", "{settings}");
            }
        }
        assert_published(&a, "");
    }
}

// Promise 14 of tornet(7).
#[test]
fn mail_is_delivered_by_several_programs_at_once_and_none_is_lost() {
    if !have(&["python3"]) {
        return;
    }
    let maildir = "
import os, socket, sys
who = sys.argv[1]
for number in range(25):
    name = f'{number}.{who}.host'
    fd = os.open('mail/tmp/' + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, f'From: {who}\\n\\n{number}\\n'.encode()); os.fsync(fd); os.close(fd)
    os.link('mail/tmp/' + name, 'mail/new/' + name)
    os.unlink('mail/tmp/' + name)
    # Somebody reads the mail meanwhile.
    for new in os.listdir('mail/new'):
        try: os.rename('mail/new/' + new, 'mail/cur/' + new + ':2,S')
        except FileNotFoundError: pass
";
    let mbox = "
import fcntl, os, sys
who, kind = sys.argv[1:]
for number in range(25):
    with open('mbox-' + kind, 'r+b', buffering=0) as box:
        getattr(fcntl, kind)(box, fcntl.LOCK_EX)
        box.seek(0)
        count = int(box.read(8))
        end = box.seek(0, 2)
        box.write(f'From {who} {number} {count}\\n'.encode())
        box.seek(0)
        box.write(b'%08d' % (count + 1))
        getattr(fcntl, kind)(box, fcntl.LOCK_UN)
";
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        for dir in ["tmp", "new", "cur"] {
            fs::create_dir_all(a.path("mail").join(dir)).unwrap();
        }
        for kind in ["lockf", "flock"] {
            fs::write(a.path(format!("mbox-{kind}")), b"00000000\n").unwrap();
        }
        let mut running = Vec::new();
        for who in ["x", "y", "z"] {
            running.push(script(a.mount(), maildir, &[who]).spawn().unwrap());
            for kind in ["lockf", "flock"] {
                running.push(script(a.mount(), mbox, &[who, kind]).spawn().unwrap());
            }
        }
        for mut process in running {
            assert!(process.wait().unwrap().success());
        }
        assert_eq!(fs::read_dir(a.path("mail/cur")).unwrap().count(), 75);
        for dir in ["tmp", "new"] {
            assert_eq!(fs::read_dir(a.path("mail").join(dir)).unwrap().count(), 0, "{dir}");
        }
        for kind in ["lockf", "flock"] {
            let text = fs::read_to_string(a.path(format!("mbox-{kind}"))).unwrap();
            assert_eq!(text.lines().next(), Some("00000075"), "{kind}");
            let numbers: Vec<usize> =
                text.lines().skip(1).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
            assert_eq!(numbers, (0..75).collect::<Vec<_>>(), "{kind}: one after the other");
        }
        assert_published(&a, "");
    }
}
