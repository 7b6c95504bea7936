import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { migrations, preparationStatements } from '../engines/migrations.ts'
import { LockError } from '../index.ts'
import { type Destination, type FormatName, formats } from './migration-formats.ts'

const engines = { postgres: 'postgres', mysql: 'mysql', mariadb: 'mysql', sqlite: 'sqlite' } as const

export const cliEngines = Object.keys(engines) as Destination['engine'][]
export const formatNames = Object.keys(formats) as FormatName[]

/** `out` is made if it is missing. */
export interface MigrationsOptions extends Destination {
  readonly format: FormatName
}

export interface WrittenMigrations {
  readonly files: readonly { readonly path: string; readonly state: 'written' | 'unchanged' }[]
  /** For people: what to do with the files. */
  readonly next: string
}

/**
 * Writes rowlock's migrations for the tool that owns the user's schema. They record themselves where `locks.migrate()`
 * looks, so that it has nothing left to do. What was written before is left as it is; another file in its place is an error.
 */
export async function writeMigrations(options: MigrationsOptions): Promise<WrittenMigrations> {
  const { format, out } = options
  const planned = plan(options, await list(out)).map(({ file, content }) => ({ path: join(out, file), content }))
  const files = await Promise.all(planned.map(async (file) => ({ ...file, present: await read(file.path) })))
  const different = files.find(({ content, present }) => present !== undefined && present !== content)
  if (different !== undefined) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `${different.path} is there and differs from what would be written; nothing was written. Move it away, or choose another --out`,
    )
  }
  for (const { path, content, present } of files) {
    if (present === undefined) await write(path, content)
  }
  return {
    files: files.map(({ path, present }) => ({ path, state: present === undefined ? 'written' : 'unchanged' })),
    next: formats[format].next(
      files.map(({ path }) => path),
      options,
    ),
  }
}

/** Files and contents in order. Migrations that are already there keep their numbers, the others come after all that is there. */
function plan({ engine, format, schema, tablePrefix }: MigrationsOptions, entries: readonly string[]) {
  const { path, content, numbering } = formats[format]
  const naming = { schema, tablePrefix }
  const numbered = numbering === undefined ? [] : entries.filter((entry) => numbering.pattern.test(entry)).sort()
  let last = numbered.at(-1)
  return migrations(engines[engine], naming).map((migration, index) => {
    const suffix = path({ migration, number: '' }).split('/')[0]!
    const existing = numbered.find((entry) => entry.endsWith(suffix))
    const number = existing === undefined ? numberAfter(last, numbering?.first ?? '') : numberOf(existing)
    const file = path({ migration, number })
    if (existing === undefined) last = file
    const preparation = index === 0 ? preparationStatements(engines[engine], naming) : []
    return { file, content: content({ migration, number, preparation }) }
  })
}

function numberAfter(last: string | undefined, first: string): string {
  if (last === undefined || first === '') return first
  const number = numberOf(last)
  return (BigInt(number) + 1n).toString().padStart(number.length, '0')
}

function numberOf(entry: string): string {
  return /^\d+/.exec(entry)![0]
}

async function list(directory: string): Promise<string[]> {
  return (await unlessMissing(() => readdir(directory))) ?? []
}

function read(path: string): Promise<string | undefined> {
  return unlessMissing(() => readFile(path, 'utf8'))
}

async function write(path: string, content: string): Promise<void> {
  await orSayWhy(async () => {
    await mkdir(dirname(path), { recursive: true })
    // Fails if somebody made it meanwhile.
    await writeFile(path, content, { flag: 'wx' })
  })
}

function unlessMissing<T>(use: () => Promise<T>): Promise<T | undefined> {
  return orSayWhy(async () => {
    try {
      return await use()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  })
}

async function orSayWhy<T>(use: () => Promise<T>): Promise<T> {
  try {
    return await use()
  } catch (cause) {
    throw new LockError('INVALID_ARGUMENT', `cannot write the migrations: ${(cause as Error).message}`, { cause })
  }
}
