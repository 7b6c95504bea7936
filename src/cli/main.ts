#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { Command, InvalidArgumentError, Option } from 'commander'
import { LockError } from '../index.ts'
import { migrate } from './migrate.ts'
import { cliEngines, formatNames, writeMigrations } from './migrations.ts'

const { version, description } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))

const databaseUrl = (description: string) => new Option('--database-url <url>', description)
const schema = () =>
  new Option('--schema <name>', "PostgreSQL schema of rowlock's tables (default: as search_path says)")
const tablePrefix = () => new Option('--table-prefix <prefix>', 'what their names begin with (default: rowlock_)')

const program = new Command('rowlock').description(description).version(version).showHelpAfterError()

program
  .command('migrate')
  .description("make or update rowlock's tables; safe to run from any number of processes at once")
  .addOption(
    databaseUrl('postgres://..., mysql://..., mariadb://... or sqlite:path/to/file')
      .env('DATABASE_URL')
      .makeOptionMandatory(),
  )
  .addOption(schema())
  .addOption(tablePrefix())
  .action(async (options) => {
    const applied = await migrate(options)
    console.log(applied.length === 0 ? 'Up to date: nothing to apply.' : `Applied ${applied.join(', ')}.`)
  })

program
  .command('migrations')
  .description('write the migrations as files for the tool that owns your schema')
  .addOption(new Option('--engine <engine>', 'the database').choices(cliEngines).makeOptionMandatory())
  .addOption(new Option('--format <format>', 'the tool').choices(formatNames).makeOptionMandatory())
  .requiredOption('--out <directory>', 'where the tool looks for migrations')
  .addOption(schema())
  .addOption(tablePrefix())
  .action(async (options) => {
    const { files, next } = await writeMigrations(options)
    const lines = files.map(({ path, state }) => `${state === 'written' ? 'Wrote' : 'Unchanged:'} ${path}`)
    console.log([...lines, '', next].join('\n'))
  })

program
  .command('demo')
  .description(
    'processes that write under locks while some of them are killed and stopped, and what that costs without',
  )
  .addOption(databaseUrl('where to run it (default: a SQLite file, removed afterwards)'))
  .option('--seconds <number>', 'how long each part takes, about', toNumber)
  .option('--workers <number>', 'how many processes write', toNumber)
  .action(async (options) => {
    const { demo } = await import('./demo/demo.ts')
    process.exitCode = await demo(options)
  })

try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof LockError)) throw error
  console.error(`rowlock: ${error.message}`)
  process.exitCode = 1
}

function toNumber(text: string): number {
  const number = Number(text)
  if (!(number > 0)) throw new InvalidArgumentError('It must be a number above 0.')
  return number
}
