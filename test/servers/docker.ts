import { untilAnswering } from './answering.ts'
import { succeeds } from './command.ts'
import type { RunningServer, ServerKind, ServerName } from './server.ts'

const images: Record<ServerName, string> = {
  postgres18: 'postgres:18',
  postgres15: 'postgres:15',
  mysql: 'mysql:9.7',
  mariadb: 'mariadb:10.11',
}

const recipes = {
  postgres: {
    port: 5432,
    environment: {
      POSTGRES_HOST_AUTH_METHOD: 'trust',
      POSTGRES_INITDB_ARGS: '--locale-provider=icu --icu-locale=en-US',
    },
    command: ['postgres', '-c', 'max_connections=300'],
    url: (host: string, port: number) => `postgres://postgres@${host}:${port}/postgres`,
  },
  mysql: {
    port: 3306,
    environment: { MYSQL_ALLOW_EMPTY_PASSWORD: '1', MARIADB_ALLOW_EMPTY_ROOT_PASSWORD: '1' },
    command: ['--max-connections=300'],
    url: (host: string, port: number) => `mysql://root@${host}:${port}/mysql`,
  },
}

let answer: Promise<boolean> | undefined

export function dockerAnswers(): Promise<boolean> {
  answer ??= succeeds({ program: 'docker', args: ['version'], timeout: 5000 })
  return answer
}

export async function startInDocker(kind: ServerKind): Promise<RunningServer> {
  const { GenericContainer } = await import('testcontainers')
  const recipe = recipes[kind.engine]
  const container = await new GenericContainer(images[kind.name])
    .withExposedPorts(recipe.port)
    .withEnvironment(recipe.environment)
    .withCommand(recipe.command)
    .start()
  const stop = async () => {
    await container.stop()
  }
  try {
    const url = recipe.url(container.getHost(), container.getMappedPort(recipe.port))
    await untilAnswering(url, { seconds: 60 })
    return { ...kind, url, logFile: null, pid: null, stop }
  } catch (error) {
    await stop()
    throw error
  }
}
