import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, inject, it } from 'vitest'
import { compile, compiled } from '../compiled.ts'
import { createDatabase } from '../connect.ts'
import { prismaGenerate } from './prisma/generate.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

async function node(...options: string[]): Promise<string> {
  const { DATABASE_URL: _, ...env } = process.env
  const { stdout } = await promisify(execFile)(process.execPath, options, { cwd: root, env })
  return stdout
}

/** What an example prints. */
async function tellsTheStory(...options: string[]): Promise<void> {
  const lines = (await node(...options)).trim().split('\n')
  expect(lines.at(0)).toMatch(/^the lease on "order:.*" is lost: /)
  expect(lines.at(-1)).toBe('ledger: paid, shipped')
}

const example = (name: string) => compiled(new URL(`../../examples/${name}.ts`, import.meta.url))

describe('examples', () => {
  beforeAll(() => compile('examples'))

  const onAll = ['knex', 'typeorm', 'sequelize', 'mikro-orm']
  const onPostgres = ['postgres-js', 'drizzle']

  for (const server of inject('servers')) {
    it.each(server.engine === 'postgres' ? [...onAll, ...onPostgres] : onAll)(`%s on ${server.name}`, async (name) => {
      const database = await createDatabase(server)
      try {
        await tellsTheStory(example(name), database.url)
      } finally {
        await database.drop()
      }
    })
  }

  it.each([...onAll, 'drizzle-sqlite'])('%s on SQLite', (name) => tellsTheStory(example(name)))

  it('knex on SQLite, as its first lines tell its reader to run it', () =>
    tellsTheStory('--import', 'tsx', 'examples/knex.ts'))

  describe('with the client that Prisma generates', { timeout: 60_000 }, () => {
    beforeAll(async () => {
      await prismaGenerate('examples/prisma/schema.prisma')
      await compile('examples')
    })

    it('prisma on SQLite', () => tellsTheStory(example('prisma')))

    it('fromPrisma takes its types, and its guards take those of its transactions', async () => {
      // A failure's message has what the compiler said.
      const said = node('node_modules/typescript/bin/tsc', '--noEmit', '-p', 'test/orms/prisma').catch(
        ({ stdout }) => stdout,
      )
      expect(await said).toBe('')
    })
  })
})
