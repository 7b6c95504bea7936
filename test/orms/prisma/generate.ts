import { execFile } from 'node:child_process'
import { access, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const prisma = join(root, 'node_modules/prisma/build/index.js')

/** A generated client.ts. */
export interface GeneratedClient {
  readonly PrismaClient: new (options: { adapter: object }) => unknown
}

/** Runs `prisma generate`, without the engine that it would download and that only migrations need. */
export async function prismaGenerate(schema: string): Promise<void> {
  await promisify(execFile)(process.execPath, [prisma, 'generate', '--schema', schema], {
    cwd: root,
    env: {
      ...process.env,
      PRISMA_SCHEMA_ENGINE_BINARY: process.execPath,
      PRISMA_HIDE_UPDATE_MESSAGE: 'true',
      CHECKPOINT_DISABLE: '1',
    },
  })
}

/** The client for a provider, generated once per version of Prisma. Git ignores the folder. */
export async function generatedClient(provider: 'postgresql' | 'mysql' | 'sqlite'): Promise<GeneratedClient> {
  const { version } = JSON.parse(await readFile(join(root, 'node_modules/prisma/package.json'), 'utf8'))
  const folder = fileURLToPath(new URL(`generated/${version}-${provider}`, import.meta.url))
  const client = join(folder, 'client/client.ts')
  if (!(await exists(client))) {
    // Complete or not there at all, although others may be at it, in this process too.
    await mkdir(dirname(folder), { recursive: true })
    const draft = await mkdtemp(`${folder}.`)
    const schema = join(draft, 'schema.prisma')
    await writeFile(schema, schemaOf(provider))
    await prismaGenerate(schema)
    await rename(draft, folder).catch((error) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
    })
    await rm(draft, { recursive: true, force: true })
  }
  return import(client)
}

function schemaOf(provider: string): string {
  return `
generator client {
  provider            = "prisma-client"
  output              = "./client"
  importFileExtension = "ts"
}

datasource db {
  provider = "${provider}"
}

model Ledger {
  entry String @id

  @@map("ledger")
}
`
}

function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}
