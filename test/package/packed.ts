import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = fileURLToPath(new URL('../../', import.meta.url))
const execute = promisify(execFile)

/** Runs a program; resolves with what it wrote to stdout. Without the environment of the Vitest that runs this. */
export async function run(program: string, args: readonly string[], cwd: string): Promise<string> {
  const { PATH, HOME } = process.env
  try {
    return (await execute(program, args, { cwd, env: { PATH, HOME } })).stdout
  } catch (error) {
    // Of stderr it tells already.
    const failed = error as Error & { stdout: string }
    failed.message += failed.stdout
    throw failed
  }
}

/** A program of a package that this repository has installed. */
export function tool(name: string): string {
  return join(root, 'node_modules/.bin', name)
}

export async function readJson(...path: string[]) {
  return JSON.parse(await readFile(join(...path), 'utf8'))
}

/** What `npm pack` makes of this repository. */
export class Package {
  readonly #folder: string
  readonly tarball: string
  readonly files: readonly string[]

  private constructor(folder: string, tarball: string, files: readonly string[]) {
    this.#folder = folder
    this.tarball = tarball
    this.files = files
  }

  static async pack(): Promise<Package> {
    const folder = await mkdtemp(join(tmpdir(), 'rowlock-package-'))
    const source = await copyOfRepository(folder)
    // Builds first: prepack.
    const stdout = await run('npm', ['pack', '--json', '--silent', '--pack-destination', folder], source)
    const [packed]: { filename: string; files: { path: string }[] }[] = JSON.parse(stdout.slice(stdout.indexOf('[\n')))
    return new Package(
      folder,
      join(folder, packed!.filename),
      packed!.files.map(({ path }) => path),
    )
  }

  /** A project with these files, and with this package as npm would install it, without asking a registry. */
  async install(name: string, packages: readonly string[], files: Record<string, string>): Promise<string> {
    const project = await this.folder(name, packages, files)
    const home = join(project, 'node_modules/rowlock')
    await mkdir(home, { recursive: true })
    await run('tar', ['-xzf', this.tarball, '-C', home, '--strip-components=1'], project)
    const { dependencies } = await readJson(home, 'package.json')
    for (const each of Object.keys(dependencies)) await provide(project, each)
    return project
  }

  /** A folder with these files, and with packages that this repository has installed. */
  async folder(name: string, packages: readonly string[], files: Record<string, string>): Promise<string> {
    const folder = join(this.#folder, name)
    await mkdir(folder)
    for (const each of packages) await provide(folder, each)
    for (const [file, text] of Object.entries(files)) await writeFile(join(folder, file), text)
    return folder
  }

  async remove(): Promise<void> {
    await rm(this.#folder, { recursive: true })
  }
}

/** So that nobody's dist is replaced. It has something that is not under version control, and must not get into the package. */
async function copyOfRepository(folder: string): Promise<string> {
  const copy = join(folder, 'source')
  await mkdir(copy)
  for (const entry of await readdir(root)) {
    if (!['.git', 'node_modules', '.build', '.compiled', 'dist', 'scratch'].includes(entry)) {
      await cp(join(root, entry), join(copy, entry), { recursive: true })
    }
  }
  await symlink(join(root, 'node_modules'), join(copy, 'node_modules'))
  await mkdir(join(copy, 'scratch'))
  await writeFile(join(copy, 'scratch/try.ts'), '')
  return copy
}

async function provide(project: string, name: string): Promise<void> {
  const link = join(project, 'node_modules', name)
  await mkdir(dirname(link), { recursive: true })
  await symlink(join(root, 'node_modules', name), link)
}
