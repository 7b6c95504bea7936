import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, inject, it } from 'vitest'
import { createDatabase } from '../connect.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Runs an example as its reader would, and answers the lines that it printed. */
async function run(example: string, ...options: string[]): Promise<string[]> {
  const { DATABASE_URL: _, ...env } = process.env
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--import', 'tsx', `examples/${example}.ts`, ...options],
    { cwd: root, env },
  )
  return stdout.trim().split('\n')
}

function tellsTheStory(lines: string[]): void {
  expect(lines.at(0)).toMatch(/^the lease on "order:.*" is lost: /)
  expect(lines.at(-1)).toBe('ledger: paid, shipped')
}

describe('examples', () => {
  const onPostgres = ['postgres-js', 'knex', 'drizzle']
  const onMysql = ['knex']

  for (const server of inject('servers')) {
    it.each(server.engine === 'postgres' ? onPostgres : onMysql)(`%s on ${server.name}`, async (example) => {
      const database = await createDatabase(server)
      try {
        tellsTheStory(await run(example, database.url))
      } finally {
        await database.drop()
      }
    })
  }

  it.each(['knex', 'drizzle-sqlite'])('%s on SQLite', async (example) => tellsTheStory(await run(example)))
})
