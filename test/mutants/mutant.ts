import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { SqlEngine } from '../../src/adapters/adapter.ts'
import { type ServerName, serverNames } from '../servers/server.ts'
import { QUALIFIED, STATEMENTS, type StatementName } from '../sql/statements.ts'

/** Engines as tests name them, the servers that they need, and whose statements they run. */
const ENGINES = {
  memory: { server: null, statements: null },
  'better-sqlite3': { server: null, statements: 'sqlite' },
  'Kysely on SQLite': { server: null, statements: 'sqlite' },
  pglite: { server: null, statements: 'postgres' },
  'pg on PostgreSQL 18': { server: 'postgres18', statements: 'postgres' },
  'mysql2 on MySQL': { server: 'mysql', statements: 'mysql' },
  'mysql2 on MariaDB': { server: 'mariadb', statements: 'mysql' },
} as const satisfies Record<string, { server: ServerName | null; statements: SqlEngine | null }>
export type EngineName = keyof typeof ENGINES

type NameOn<Engine extends EngineName> = Engine extends EngineName
  ? NameOf<(typeof ENGINES)[Engine]['statements']>
  : never
type NameOf<Statements> = Statements extends SqlEngine ? StatementName<Statements> : never

/** One clause of a store weakened. */
export type Weakening<Engine extends EngineName> = Place<Engine> & {
  readonly name: string
  /**
   * Is there exactly once, or, of a fragment that several statements have, in each of them. White space is white space,
   * however much of it: statements can be quoted as test/sql has them.
   */
  readonly find: string
  readonly replace: string
  /** Test files, from `test/` on. */
  readonly tests: readonly string[]
}

/**
 * At least one of its tests must fail on `engine` because of it, and not all of them: a statement that does not even run proves
 * nothing.
 */
export type Mutant = Weakening<EngineName> & { readonly engine: EngineName }

/** What is weakened: compiled statements, a function of migrations/postgres (without its prefix), or a source file. */
type Place<Engine extends EngineName> =
  | { readonly statement: NameOn<Engine> }
  | { readonly fragmentOf: readonly NameOn<Engine>[] }
  | { readonly function: string }
  | { readonly file: string }

export interface Outcome {
  readonly passed: number
  /** Names of the tests that failed. */
  readonly failed: readonly string[]
}

const root = fileURLToPath(new URL('../..', import.meta.url))
/** What the tests of stores need. */
const COPIED = ['src', 'test', 'migrations', 'package.json', 'tsconfig.json', 'vitest.config.ts']

const MIGRATION = 'migrations/postgres/0001_locks.sql'
/** Which compiles all statements; in the sandbox another module takes its place, and it stands beside that. */
const COMPILER = 'src/engines/statement.ts'
const COMPILER_ITSELF = 'src/engines/statement-itself.ts'
/** There when a weakened statement has been compiled. */
const MARK = 'weakened'

/** Tests that hang tell nothing. */
const LONGEST_RUN_MS = 600_000
/** So many failures are enough to know that a mutant was noticed; what waits for what never comes takes long. */
const ENOUGH_FAILURES = 2

/** The text of a source file that a mutant changes, by its path; or texts of statements, by what they are otherwise. */
type Changes = { readonly files: Map<string, string> } | { readonly statements: Map<string, string> }

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
    await cp(join(directory, COMPILER), join(directory, COMPILER_ITSELF))
    return new Sandbox(directory)
  }

  /** Throws unless the mutant can be made. */
  async check(mutant: Mutant): Promise<void> {
    await this.#changesOf(mutant)
  }

  /** Runs the mutant's tests with the mutant in place. */
  async runMutated(mutant: Mutant, failures?: number): Promise<Outcome> {
    const changes = await this.#changesOf(mutant)
    if ('statements' in changes) return this.#runWeakened(changes.statements, mutant, failures)
    const originals = new Map<string, string>()
    for (const [path, text] of changes.files) {
      originals.set(path, await this.#read(path))
      await this.#write(path, text)
    }
    try {
      return await this.run(mutant, failures)
    } finally {
      for (const [path, text] of originals) await this.#write(path, text)
    }
  }

  /** Runs the tests on the store as it is; all of them, or until so many have failed. */
  async run({ engine, tests }: Pick<Mutant, 'engine' | 'tests'>, failures = 0): Promise<Outcome> {
    const { server } = ENGINES[engine]
    const report = join(this.#directory, 'report.json')
    await rm(report, { force: true })
    // Some tests are named after the server.
    const name = server === null ? engine : `(${engine}|${server})`
    const vitest = spawn(
      process.execPath,
      [
        join(root, 'node_modules/vitest/vitest.mjs'),
        'run',
        ...tests.map((file) => `test/${file}`),
        `--testNamePattern=(^|[ '])${name}([ ']|$)`,
        `--bail=${failures}`,
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
          ...serversOf(process.env),
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

  async #runWeakened(statements: ReadonlyMap<string, string>, mutant: Mutant, failures?: number): Promise<Outcome> {
    await rm(join(this.#directory, MARK), { force: true })
    await this.#write(COMPILER, weakeningCompiler(statements))
    try {
      const outcome = await this.run(mutant, failures)
      await access(join(this.#directory, MARK)).catch((cause: unknown) => {
        throw new Error(`no test of the mutant "${mutant.name}" has compiled its statement`, { cause })
      })
      return outcome
    } finally {
      await this.#write(COMPILER, await this.#read(COMPILER_ITSELF))
    }
  }

  async #changesOf(mutant: Mutant): Promise<Changes> {
    if ('file' in mutant) {
      return { files: new Map([[mutant.file, replacedOnce(mutant, mutant.file, await this.#read(mutant.file))]]) }
    }
    if ('function' in mutant) {
      const migration = await this.#read(MIGRATION)
      const original = functionIn(migration, mutant.function)
      const weakened = replacedOnce(mutant, mutant.function, original)
      return { files: new Map([[MIGRATION, migration.replace(original, () => weakened)]]) }
    }
    const { statements: dialect } = ENGINES[mutant.engine]
    const sent: Readonly<Record<string, { readonly text: string }>> = dialect === null ? {} : STATEMENTS[dialect]
    const names = 'statement' in mutant ? [mutant.statement] : mutant.fragmentOf
    const statements = names.flatMap((name): [string, string][] => {
      const text = sent[name]?.text
      if (text === undefined) throw new Error(`there is no statement of the name ${name} on ${mutant.engine}`)
      const weakened = 'statement' in mutant ? replacedOnce(mutant, name, text) : replaced(mutant, name, text)
      if (placeholdersOf(weakened) !== placeholdersOf(text))
        throw new Error(`the mutant "${mutant.name}" does not leave the values of ${name} their places`)
      const before = toTemplate(text)
      const after = toTemplate(weakened)
      return [[before, after], ...otherTexts(mutant, name, before, after)]
    })
    return { statements: new Map(statements) }
  }

  #read(path: string): Promise<string> {
    return readFile(join(this.#directory, path), 'utf8')
  }

  #write(path: string, text: string): Promise<void> {
    return writeFile(join(this.#directory, path), text)
  }
}

/** The variables that name servers which are running already. */
function serversOf(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => /^ROWLOCK_TEST_\w+_URL$/.test(name)))
}

function replacedOnce(mutant: Mutant, where: string, text: string): string {
  const found = text.match(patternOf(mutant.find))?.length ?? 0
  if (found !== 1)
    throw new Error(
      `the mutant "${mutant.name}" looks for this in ${where}, and finds it ${found} times:\n${mutant.find}`,
    )
  return replaced(mutant, where, text)
}

function replaced({ name, find, replace }: Mutant, where: string, text: string): string {
  const weakened = text.replace(patternOf(find), () => replace)
  if (weakened === text) throw new Error(`the mutant "${name}" changes nothing in ${where}:\n${find}`)
  return weakened
}

function patternOf(find: string): RegExp {
  const parts = find.split(/\s+/).map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
  return new RegExp(parts.join('\\s+'), 'g')
}

function functionIn(migration: string, name: string): string {
  const [found, ...others] =
    migration.match(new RegExp(`create function rowlock_${name}\\([^]*?\\$function\\$;`, 'g')) ?? []
  if (found === undefined || others.length > 0) throw new Error(`there is no function, or not one, of the name ${name}`)
  return found
}

/** Those that have numbers each once, and how many others there are. */
function placeholdersOf(text: string): string {
  return `${[...new Set(text.match(/\$\d+/g))].sort()} ${text.match(/\?(?=[ ,)]|$)/gm)?.length ?? 0}`
}

/** A statement of MySQL's as it is compiled, before what is asked, limits, and what lifts a guard are put into it. */
function toTemplate(text: string): string {
  return text
    .replace(/\(select \? as \w+(?:, \? as \w+)* limit 1\)/, '/* asked */')
    .replace(/\bl\.name in \(\?\)/, 'l.name in /* names */')
    .replace(/^\/\*M! [^*]* \*\/ update \/\*\+ [^*]*\*\//, '\n        update')
    .replace(/ \/\*\+ MAX_EXECUTION_TIME\(\d+\) \*\//, '')
}

/** The same change to what else the statement may be compiled to. */
function otherTexts({ engine }: Mutant, name: string, before: string, after: string): [string, string][] {
  // That may be put behind it later.
  const nowait = / nowait$/
  if (nowait.test(before)) return [[before.replace(nowait, ''), after.replace(nowait, '')]]
  if (ENGINES[engine].statements !== 'postgres') return []
  // Once it is known where the tables are.
  const inSchema = (text: string) => text.replaceAll('"rowlock_', '"public"."rowlock_')
  if (inSchema(before) !== QUALIFIED[name as keyof typeof QUALIFIED].text)
    throw new Error(`${name} is more than named by its schema where that is known`)
  return [[inSchema(before), inSchema(after)]]
}

/** A module that stands for COMPILER, and replaces statements by weaker ones. */
function weakeningCompiler(statements: ReadonlyMap<string, string>): string {
  return `
import { writeFileSync } from 'node:fs'
import * as itself from './statement-itself.ts'

const weaker = new Map(${JSON.stringify([...statements])})

function weakened(compiled) {
  const text = weaker.get(compiled.text)
  if (text === undefined) return compiled
  writeFileSync(new URL('../../${MARK}', import.meta.url), '')
  return { ...compiled, text, ...(compiled.name !== undefined && { name: itself.statementName(text) }) }
}

export function statement(engine, build) {
  const compiled = itself.statement(engine, build)
  return (values) => weakened(compiled(values))
}

export function compile(engine, query) {
  return weakened(itself.compile(engine, query))
}

export const { statementName } = itself
`
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
      const isHealthy = before.failed.length === 0
      let after = await sandbox.runMutated(mutant, isHealthy ? ENOUGH_FAILURES : 0)
      if (after.passed === 0 && isHealthy) after = await sandbox.runMutated(mutant)
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
