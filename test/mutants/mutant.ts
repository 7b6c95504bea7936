import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type ServerName, serverNames } from '../servers/server.ts'

/** Engines as tests name them, and the servers that they need. */
const ENGINES = {
  memory: null,
  'better-sqlite3': null,
  pglite: null,
  'pg on PostgreSQL 18': 'postgres18',
  'mysql2 on MySQL': 'mysql',
  'mysql2 on MariaDB': 'mariadb',
} as const satisfies Record<string, ServerName | null>

/**
 * A store with one clause weakened. `find` must be in `file` exactly once. At least one of the tests in `tests` must fail on
 * `engine` because of it, and not all of them: a statement that does not even run proves nothing.
 */
export interface Mutant {
  readonly name: string
  readonly file: string
  readonly find: string
  readonly replace: string
  readonly engine: keyof typeof ENGINES
  /** Test files, from `test/` on. */
  readonly tests: readonly string[]
}

export interface Outcome {
  readonly passed: number
  /** Names of the tests that failed. */
  readonly failed: readonly string[]
}

const root = fileURLToPath(new URL('../..', import.meta.url))
/** What the tests of stores need. */
const COPIED = ['src', 'test', 'migrations', 'package.json', 'tsconfig.json', 'vitest.config.ts']

/** Tests that hang tell nothing. */
const LONGEST_RUN_MS = 600_000

/** A copy of the checkout, so that nobody else sees the mutants. */
export class Sandbox {
  readonly #directory: string

  private constructor(directory: string) {
    this.#directory = directory
  }

  static async create(): Promise<Sandbox> {
    const directory = await mkdtemp(join(tmpdir(), 'rowlock-mutants-'))
    for (const each of COPIED) await cp(join(root, each), join(directory, each), { recursive: true })
    await symlink(join(root, 'node_modules'), join(directory, 'node_modules'))
    return new Sandbox(directory)
  }

  /** Throws unless the mutant can be made. */
  async check({ name, file, find }: Mutant): Promise<void> {
    const found = (await readFile(join(this.#directory, file), 'utf8')).split(find).length - 1
    if (found !== 1)
      throw new Error(`the mutant "${name}" looks for this in ${file}, and finds it ${found} times:\n${find}`)
  }

  /** Runs the mutant's tests with the mutant in place. */
  async runMutated(mutant: Mutant): Promise<Outcome> {
    await this.check(mutant)
    const path = join(this.#directory, mutant.file)
    const original = await readFile(path, 'utf8')
    await writeFile(
      path,
      original.replace(mutant.find, () => mutant.replace),
    )
    try {
      return await this.run(mutant)
    } finally {
      await writeFile(path, original)
    }
  }

  /** Runs the tests on the store as it is. */
  async run({ engine, tests }: Pick<Mutant, 'engine' | 'tests'>): Promise<Outcome> {
    const server = ENGINES[engine]
    const report = join(this.#directory, 'report.json')
    await rm(report, { force: true })
    const name = engine.replaceAll(/[.]/g, '\\$&')
    const vitest = spawn(
      process.execPath,
      [
        join(root, 'node_modules/vitest/vitest.mjs'),
        'run',
        ...tests.map((file) => `test/${file}`),
        `--testNamePattern=(^|[ '])${name}([ ']|$)`,
        '--reporter=json',
        `--outputFile=${report}`,
      ],
      {
        cwd: this.#directory,
        stdio: 'ignore',
        timeout: LONGEST_RUN_MS,
        // Without the variables of a Vitest that this may run in, and without CI's second chance.
        env: {
          PATH: process.env.PATH,
          HOME: process.env.HOME,
          ROWLOCK_TEST_EXCLUDE: serverNames.filter((each) => each !== server).join(','),
        },
      },
    )
    const [, signal] = await once(vitest, 'exit')
    if (signal !== null)
      return { passed: 0, failed: [`the tests did not end within ${LONGEST_RUN_MS / 60_000} minutes`] }
    return read(await readFile(report, 'utf8'))
  }

  async remove(): Promise<void> {
    await rm(this.#directory, { recursive: true })
  }
}

function read(report: string): Outcome {
  const { testResults } = JSON.parse(report) as {
    testResults: { name: string; message: string; assertionResults: { fullName: string; status: string }[] }[]
  }
  const tests = testResults.flatMap(({ assertionResults }) => assertionResults)
  const failed = tests.filter(({ status }) => status === 'failed').map(({ fullName }) => fullName)
  return { passed: tests.filter(({ status }) => status === 'passed').length, failed }
}

export type Verdict =
  | { readonly killed: true; readonly by: readonly string[] }
  | { readonly killed: false; readonly why: string }

/** Judges mutants; tests that fail without any mutant kill none. */
export async function judge(
  mutants: readonly Mutant[],
  tell: (mutant: Mutant, verdict: Verdict) => void,
): Promise<void> {
  const sandbox = await Sandbox.create()
  const healthy = new Map<string, Promise<Outcome>>()
  const baseline = ({ engine, tests }: Mutant) => {
    const key = `${engine}: ${tests.join(' ')}`
    const outcome = healthy.get(key) ?? sandbox.run({ engine, tests })
    healthy.set(key, outcome)
    return outcome
  }
  try {
    for (const mutant of mutants) await sandbox.check(mutant)
    for (const mutant of mutants) {
      const before = await baseline(mutant)
      const after = await sandbox.runMutated(mutant)
      tell(mutant, compare(before, after))
    }
  } finally {
    await sandbox.remove()
  }
}

function compare(before: Outcome, after: Outcome): Verdict {
  if (before.passed === 0) return { killed: false, why: `none of its tests passes without it: ${before.failed[0]}` }
  if (after.passed === 0) return { killed: false, why: 'no test passes with it: its statement may not run at all' }
  const by = after.failed.filter((test) => !before.failed.includes(test))
  return by.length > 0 ? { killed: true, by } : { killed: false, why: `it survived ${after.passed} tests` }
}
