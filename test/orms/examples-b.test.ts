import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { beforeAll, describe, expect, inject, it } from 'vitest'
import { createDatabase } from '../connect.ts'
import { prismaGenerate } from './prisma/generate.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

async function node(...options: string[]): Promise<string> {
  const { DATABASE_URL: _, ...env } = process.env
  const { stdout } = await promisify(execFile)(process.execPath, options, { cwd: root, env })
  return stdout
}

/** Runs an example as its reader would. */
async function tellsTheStory(example: string, ...options: string[]): Promise<void> {
  const lines = (await node('--import', 'tsx', `examples/${example}.ts`, ...options)).trim().split('\n')
  expect(lines.at(0)).toMatch(/^the lease on "order:.*" is lost: /)
  expect(lines.at(-1)).toBe('ledger: paid, shipped')
}

describe('examples', () => {
  for (const server of inject('servers')) {
    it.each(['typeorm', 'sequelize', 'mikro-orm'])(`%s on ${server.name}`, async (example) => {
      const database = await createDatabase(server)
      try {
        await tellsTheStory(example, database.url)
      } finally {
        await database.drop()
      }
    })
  }

  it.each(['typeorm', 'sequelize', 'mikro-orm'])('%s on SQLite', (example) => tellsTheStory(example))

  describe('with the client that Prisma generates', () => {
    beforeAll(() => prismaGenerate('examples/prisma/schema.prisma'))

    it('prisma on SQLite', () => tellsTheStory('prisma'))

    it('fromPrisma takes its types, and its guards take those of its transactions', async () => {
      // A failure's message has what the compiler said.
      const compiled = node('node_modules/typescript/bin/tsc', '--noEmit', '-p', 'test/orms/prisma').catch(
        ({ stdout }) => stdout,
      )
      expect(await compiled).toBe('')
    })
  })
})
